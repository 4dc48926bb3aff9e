//! Settings in stages: typed in (file, environment, flags), merged, resolved.

pub mod settings;
