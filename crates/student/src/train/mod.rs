//! Trains a student.
