//! Owned directories, real servers, neutral environments.
