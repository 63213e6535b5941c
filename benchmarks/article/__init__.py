"""The article's other systems beside the closed forms, on the embedded worlds."""
