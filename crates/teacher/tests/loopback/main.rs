//! Client and server over loopback: with each other, and the client against raw hostile servers.

mod conformance;
mod hostile;
mod raw;
