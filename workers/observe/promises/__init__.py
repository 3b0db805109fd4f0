"""Whether each promise of the privacy policy is kept, with the figure that says so."""
