"""How requests come in and become effects."""
