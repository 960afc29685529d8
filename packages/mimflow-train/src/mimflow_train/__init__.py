"""Trains MIMFlow: a masked encoder, a flow prior and a decoder, jointly and from scratch."""
