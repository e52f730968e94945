"""The embedded world: pictures of shapes, with questions, conversations and captions in the official file formats."""
