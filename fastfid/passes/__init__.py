"""One pass over an image set: decoded, resized, through the network, added up."""
