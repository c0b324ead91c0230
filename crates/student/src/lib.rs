//! Models, losses, optimiser, scoring, checkpoints (libtorch).
