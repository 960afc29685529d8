"""What is made of a trained run: pictures, scores, and a look at it from inside."""
