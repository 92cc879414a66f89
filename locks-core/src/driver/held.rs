//! The grants that have guards. The driver changes them; callers look at them without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::lease::GrantState;
use crate::{name::LockName, protocol::Name, table::Nonce};

/// The grants of a driver that have guards. A grant is entered before its caller gets the guard,
/// and removed when the driver learns that the guard is gone.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldGrants(Arc<Mutex<BTreeMap<Nonce, HeldGrant>>>);

#[derive(Debug)]
struct HeldGrant {
    namespace: Name,
    task: Arc<str>,
    state: Arc<GrantState>,
}

impl HeldGrants {
    pub(super) fn add(
        &self,
        nonce: Nonce,
        namespace: Name,
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

    pub(super) fn remove(&self, nonce: Nonce) -> Option<Arc<GrantState>> {
        let grant = self.grants().remove(&nonce);
        grant.map(|grant| grant.state)
    }

    pub(super) fn remove_all(&self) -> Vec<Arc<GrantState>> {
        let all = std::mem::take(&mut *self.grants()).into_values();
        all.map(|grant| grant.state).collect()
    }

    /// The grants with a transaction that was fenced and may be open.
    pub(super) fn fenced(&self) -> BTreeSet<Nonce> {
        let grants = self.grants();
        let fenced = grants.iter().filter(|(_, grant)| grant.state.is_fenced());
        fenced.map(|(nonce, _)| *nonce).collect()
    }

    /// The names that guards of a task hold, as far as this process knows.
    pub(super) fn names(&self, namespace: &str, task: &str) -> Vec<LockName> {
        let grants = self.grants();
        let grants = grants.values().filter(|grant| {
            *grant.namespace == *namespace && *grant.task == *task && grant.state.is_held()
        });
        let names = grants.flat_map(|grant| grant.state.names());
        names.cloned().collect()
    }

    fn grants(&self) -> MutexGuard<'_, BTreeMap<Nonce, HeldGrant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
