//! Speaks to black boxes and classifies their failures.
