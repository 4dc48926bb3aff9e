//! `archiver demo`: everything at once, without any set-up.
//!
//! [`World`] is what the demo moves: an application's files, some finished and some not yet, and an actor that
//! finishes them while the archiver watches. [`tree::render`] shows what came of it on the far side.

mod content;
pub mod tree;
pub mod world;

pub use world::{Step, Timing, World};
