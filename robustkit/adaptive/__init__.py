"""From the findings about an evaluation to attacks that answer them."""
