//! The grants that have guards, for callers that ask without the driver.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::lease::GrantState;
use crate::{name::LockName, table::Nonce};

/// The grants of a driver that have guards. A grant is entered before its caller gets the guard,
/// and taken out when the guard ends, in the thread where it ends.
#[derive(Debug, Default)]
pub(super) struct HeldGrants(Mutex<BTreeMap<Nonce, HeldGrant>>);

#[derive(Debug)]
struct HeldGrant {
    namespace: Arc<str>,
    task: Arc<str>,
    state: Arc<GrantState>,
}

impl HeldGrants {
    pub(super) fn add(
        &self,
        nonce: Nonce,
        namespace: Arc<str>,
        task: Arc<str>,
        state: Arc<GrantState>,
    ) {
        let grant = HeldGrant {
            namespace,
            task,
            state,
        };
        self.grants().insert(nonce, grant);
    }

    pub(super) fn remove(&self, nonce: Nonce) {
        // It is dropped after the mutex is unlocked.
        let grant = self.grants().remove(&nonce);
        drop(grant);
    }

    /// The names that a task holds, as far as this process knows.
    pub(super) fn names(&self, namespace: &str, task: &str) -> Vec<LockName> {
        let grants = self.grants();
        let grants = grants.values().filter(|grant| {
            *grant.namespace == *namespace && *grant.task == *task && !grant.state.is_lost()
        });
        let names = grants.flat_map(|grant| grant.state.names());
        names.cloned().collect()
    }

    fn grants(&self) -> MutexGuard<'_, BTreeMap<Nonce, HeldGrant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
