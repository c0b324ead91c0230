//! How ranks add gradients: local, ring.
