"""What is asked: concepts, prompts, tables, and the datamodule that gives them."""
