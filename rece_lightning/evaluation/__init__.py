"""Pictures of prompts in model states: what is asked, drawn, collected, compared and measured."""
