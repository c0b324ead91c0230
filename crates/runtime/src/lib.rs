//! Process plumbing: signals, supervision, framed links.
