"""A trained run judged: samples, reconstructions, scores, and a look at it from inside."""
