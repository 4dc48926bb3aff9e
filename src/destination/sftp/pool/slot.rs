//! A job's place on a session of the pool.

use std::ops::Deref;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Duty, Inner, Link, Load};
use crate::destination::sftp::connect::Connection;
use crate::destination::sftp::session::Session;

/// A place on a session, given back on drop.
pub struct Slot {
    pub(super) link: Arc<Link>,
    pub(super) duty: Duty,
    pub(super) load: Load,
    pub(super) pool: Arc<Inner>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl Deref for Slot {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.link.session
    }
}

impl Slot {
    /// Takes this session out of the pool: nobody gets it any more. Others who have it find out for themselves.
    pub fn broken(&self) {
        let mut state = self.pool.state();
        self.pool.remove(&mut state, &self.link);
        drop(state);
        self.pool.changed.notify_waiters();
    }

    /// The connection the session is on.
    pub fn connection(&self) -> &Connection {
        &self.link.connection
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        if let Some(member) = state.members.iter_mut().find(|member| Arc::ptr_eq(&member.link, &self.link)) {
            member.in_use -= 1;
            member.large -= usize::from(self.load == Load::Heavy);
            state.ramp.counted();
        }
        if self.duty == Duty::Probe {
            // Without a verdict so far, the next one tries.
            state.breaker.unproved(Instant::now());
        }
        drop(state);
        self.pool.changed.notify_one();
    }
}
