//! The only durable truth: permits and labels.
