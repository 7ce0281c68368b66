"""A first configuration, written from the images that a user has (`rsf init`)."""
