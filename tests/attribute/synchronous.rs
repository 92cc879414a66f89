//! Synchronous functions with `#[with_lock]`: the manager of a test, and calls where a thread must
//! not block.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe, catch_unwind},
};

use locks_core::{LockError, LockManager, Result, with_lock};
use locks_tests::{engine::Database, on_every_engine};

on_every_engine!(
    sync synchronous_function_has_a_manager_of_its_own,
    sync default_of_a_panic_ends_with_it,
);

fn connect(db: &Database, namespace: &str) -> LockManager {
    let builder = LockManager::builder().namespace(namespace);
    let locks = builder.connect(db.url()).blocking();
    locks.expect("the test's database")
}

/// The namespaces in which the lock is held while the body runs.
#[with_lock("x")]
fn held_in(all: &[&LockManager]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for locks in all {
        if !locks.held().blocking()?.is_empty() {
            found.push(locks.namespace().to_owned());
        }
    }
    Ok(found)
}

fn no_default() -> bool {
    matches!(LockManager::current(), Err(LockError::NotInstalled))
}

#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn synchronous_function_has_a_manager_of_its_own(db: Database) {
    let (outer, inner) = (connect(&db, "outer"), connect(&db, "inner"));
    let all = [&outer, &inner];
    assert!(no_default());
    outer.default_for_sync(|| {
        assert_eq!(held_in(&all).expect("it is free"), ["outer"]);
        let nested = inner.default_for_sync(|| held_in(&all));
        assert_eq!(nested.expect("it is free"), ["inner"]);
        assert_eq!(held_in(&all).expect("it is free"), ["outer"]);
        let elsewhere = std::thread::spawn(no_default);
        assert!(
            elsewhere.join().expect("no panic"),
            "threads do not inherit"
        );
    });
    assert!(no_default());
}

#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn default_of_a_panic_ends_with_it(db: Database) {
    let locks = connect(&db, "n");
    let panicking = || locks.default_for_sync(|| panic!("a bug in the function"));
    catch_unwind(AssertUnwindSafe(panicking)).expect_err("it panics");
    assert!(no_default());
}

thread_local! {
    /// The file in which this thread panicked last.
    static PANICKED_IN: RefCell<String> = const { RefCell::new(String::new()) };
}

#[with_lock("x", locks = locks)]
fn blocking(locks: &LockManager) -> Result<()> {
    let _ = locks;
    Ok(())
}

#[tokio::test]
async fn panic_in_an_async_context_points_at_the_function() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let file = info.location().map(|at| at.file().to_owned());
        PANICKED_IN.set(file.unwrap_or_default());
        before(info);
    }));
    let locks = LockManager::connect("sqlite::memory:").await;
    let locks = locks.expect("it is in memory");
    catch_unwind(AssertUnwindSafe(|| blocking(&locks))).expect_err("it must not block");
    let file = PANICKED_IN.take();
    assert!(file.ends_with("synchronous.rs"), "{file}");
}
