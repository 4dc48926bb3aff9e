//! The words of the program as types. Nothing here performs I/O, reads a clock or draws a random number:
//! those come in as arguments, so every rule can be tested as a plain function.

pub mod access;
pub mod backoff;
pub mod destination_url;
pub mod display;
pub mod fingerprint;
pub mod glob;
pub mod key;
pub mod layout;
pub mod listen;
pub mod marker;
pub mod name;
pub mod outcome;
pub mod policy;
pub mod pulse;
pub mod redis_url;
pub mod remote_path;
pub mod turn;
pub mod units;
pub mod writer;

pub use access::{Access, Identity};
pub use backoff::Backoff;
pub use destination_url::DestinationUrl;
pub use fingerprint::Fingerprint;
pub use key::{FileKey, KeyId, OwnerId, Token};
pub use layout::{DateFrom, Layout, Timezone};
pub use listen::ListenAddress;
pub use marker::MarkerPattern;
pub use outcome::{Deferral, Recount, Row, Sha256Digest, Status, Totals};
pub use policy::{After, AfterFailure, Dedupe, Fsync, HostKeyPolicy, OnConflict, Publish, Repeat, Verify};
pub use pulse::Pulse;
pub use redis_url::RedisUrl;
pub use remote_path::RemotePath;
pub use units::{ByteRate, HumanDuration};
pub use writer::WriterState;
