"""What do we say? Messages, documents and their languages. Imports nothing else of ours."""
