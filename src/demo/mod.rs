//! `archiver demo`: everything at once, without any set-up. [`crate::app`] tells the story.
//!
//! [`Place`] is where it happens. [`World`] is what the demo moves: an application's files, some finished and some not
//! yet, and an actor that finishes them while the archiver watches. [`setup`] starts the server and makes the settings.
//! [`arrivals`] and [`tree`] show what came of it on the far side.

pub mod arrivals;
mod content;
pub mod place;
pub mod setup;
pub mod tree;
pub mod world;

pub use place::{Afterwards, Place};
pub use world::{Step, Timing, World};
