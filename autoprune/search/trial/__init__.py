"""One trial of a vision-language model, and what it is forecast to take."""
