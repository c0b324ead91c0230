//! Turns ids into pixels: readers and rendering.
