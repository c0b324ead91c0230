//! The verbs: who does what next, as a pure state machine; wire messages and codec.
