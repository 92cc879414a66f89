//! Interleavings with the original that broke earlier designs, step by step.
//!
//! All of them run on MariaDB, the engine of the original. This library connects through a relay,
//! which delays a write for as long as a trace needs; the original connects directly.

mod scene;

use std::time::Duration;

use locks_core::{LockError, LockGuard};
use locks_tests::{
    original::{Original, OriginalError},
    relay::{How, When},
    wait,
};
use sqlx::{Connection as _, MySqlConnection};
use tokio::time::{sleep, timeout};

use scene::{Asking, NAME, SETTLED, SOON, Scene, assert_theirs, connect, trace};

#[test]
fn lock_taken_by_the_original_survives_our_drop() {
    trace(async |mut s| {
        let guard = s.ours.acquire(NAME).await.expect("nothing is held");
        s.granted(guard.token());
        let taken = s.theirs.release_by_task_id("ours").await.expect("a row");
        assert_eq!(taken, [NAME]);
        s.theirs.acquire(NAME).await.expect("it is free");
        drop(guard);
        // A request after the drop is answered after the drop.
        let held = s.ours.held().await.expect("it is readable");
        assert!(matches!(&held[..], [h] if &*h.task_id == "foreign" && h.token.is_none()));
        s.assert_lock_is_theirs().await;
    });
}

#[test]
fn lock_taken_by_the_original_survives_our_release() {
    trace(async |mut s| {
        let guard = s.ours.acquire(NAME).await.expect("nothing is held");
        s.granted(guard.token());
        s.theirs.release_all().await.expect("a table");
        s.theirs.acquire(NAME).await.expect("it is free");
        // The answer is that the lock is lost, or that nothing is left to release.
        let released = guard.release().await;
        assert!(
            released.as_ref().err().is_none_or(LockError::is_lost),
            "{released:?}"
        );
        s.assert_lock_is_theirs().await;
    });
}

/// The original resets the version, and reaches the version that this library has read.
#[test]
fn the_old_version_comes_back_while_our_write_is_under_way() {
    trace(async |mut s| {
        let cached = s.row().await.version;
        s.arm(How::Stall);
        let asking = s.ask_and_stall().await;
        bring_back(&mut s, cached).await;
        s.relay.heal();
        let answer = timeout(SOON, asking).await.expect("in time");
        assert_theirs(&answer.expect("no panic").expect_err("it is theirs"));
        s.assert_lock_is_theirs().await;
    });
}

/// As above, and the write is given up; the version comes back once more before the write lands.
#[test]
fn the_old_version_comes_back_before_our_late_write_lands() {
    trace(async |mut s| {
        let cached = s.row().await.version;
        s.arm(How::Stall);
        let asking = s.ask_and_stall().await;
        bring_back(&mut s, cached).await;
        let answer = timeout(SETTLED, asking).await.expect("in time");
        assert_theirs(&answer.expect("no panic").expect_err("it is theirs"));
        bring_back(&mut s, cached).await;
        s.land_late().await;
        s.assert_lock_is_theirs().await;
    });
}

/// `releaseAll`; then the original holds the lock, on a row of this version.
async fn bring_back(s: &mut Scene, version: i64) {
    s.theirs.release_all().await.expect("a table");
    s.theirs.acquire(NAME).await.expect("it is free");
    // Each write of the original adds one to the version.
    s.db.execute(&format!("UPDATE locks SET version = {version}"))
        .await;
}

/// `releaseAll`, and some writes that change nothing. Returns the row's version.
async fn start_over(theirs: &mut Original, writes: i64) -> i64 {
    theirs.release_all().await.expect("a table");
    for _ in 0..writes {
        theirs.release_by_task_id("absent").await.expect("a row");
    }
    theirs.read().await.expect("a row").1
}

/// An adoption is unknown, is settled, and lands late on another row of the same version. In
/// between the scene's lock is granted to this library. Returns its guard.
async fn adopt_twice(s: &mut Scene, then: impl AsyncFnOnce(&mut Original)) -> LockGuard {
    const WRITES: i64 = 40;
    let old = start_over(&mut s.theirs, WRITES).await;
    // Two statements name this version; the other versions of this library are far away. The first
    // statement ends the old session if the row still has this version, the second one is the
    // adoption.
    let named = When::Containing(old.to_le_bytes().to_vec());
    s.relay.arm(named.clone(), How::Delay(Duration::ZERO));
    s.relay.arm(named, How::Stall);
    let asking = s.ask_and_stall().await;
    let answer = timeout(SETTLED, asking).await.expect("in time");
    let guard = answer.expect("no panic").expect("it is free");
    s.granted(guard.token());

    let again = start_over(&mut s.theirs, WRITES - 1).await;
    assert_eq!(again, old - 1);
    then(&mut s.theirs).await;
    assert_eq!(s.theirs.read().await.expect("a row").1, old);
    s.land_late().await;
    assert_ne!(s.row().await.stamp, None, "it is adopted");
    guard
}

#[test]
fn a_settled_adoption_lands_on_a_second_row_of_the_same_version() {
    trace(async |mut s| {
        let guard = adopt_twice(&mut s, async |theirs| {
            theirs.acquire(NAME).await.expect("it is free");
        })
        .await;
        s.assert_held(&[(NAME, "foreign")]).await;
        drop(guard);
        s.assert_lock_is_theirs().await;
    });
}

/// A holder that lost its lock by the second `releaseAll` cannot commit once another process of
/// this library holds the lock.
#[test]
fn a_late_adoption_does_not_let_two_of_ours_commit() {
    trace(async |mut s| {
        let former = adopt_twice(&mut s, async |theirs| {
            theirs.release_by_task_id("absent").await.expect("a row");
        })
        .await;
        let second = connect(s.db.url(), "ours-2").await;
        let guard = second.wait(NAME).timeout(SOON).await.expect("it is free");
        s.granted(guard.token());
        let mut conn = mysql(&s).await;
        let refused = former.fence(&mut conn).await;
        assert!(
            refused.is_err_and(|error| error.is_lost()),
            "it was let through"
        );
        guard.fence(&mut conn).await.expect("it holds the lock");
        drop(former);
        let held = s.ours.held().await.expect("it is readable");
        assert!(
            matches!(&held[..], [h] if &*h.task_id == "ours-2"),
            "{held:?}"
        );
        guard.release().await.expect("it is held");
        s.assert_both_work().await;
    });
}

async fn mysql(s: &Scene) -> MySqlConnection {
    let conn = MySqlConnection::connect(s.db.url()).await;
    conn.expect("the server answers")
}

/// Requests the lock with a write that is given up and repeated. The first write lands just before
/// the repetition, which then changes no row.
async fn land_before_the_repetition(s: &Scene) -> Asking {
    const PAUSE: Duration = Duration::from_secs(2);
    s.arm(How::Stall);
    s.arm(How::Delay(PAUSE));
    let asking = s.ask_and_stall().await;
    let what = "the repetition";
    s.relay
        .wait_for(SETTLED, what, |seen| seen.delayed == 1)
        .await;
    s.relay.heal();
    wait::until(PAUSE, "the first write lands first", async || {
        s.held().await.contains_key(NAME)
    })
    .await;
    asking
}

#[test]
fn the_first_write_lands_before_its_repetition() {
    trace(async |mut s| {
        let asking = land_before_the_repetition(&s).await;
        assert!(!asking.is_finished(), "answered before anything was known");
        let landed = s.row().await;
        let answer = timeout(SOON, asking).await.expect("in time");
        let guard = answer.expect("no panic").expect("it is granted");
        assert_eq!(guard.token(), landed.version);
        s.granted(guard.token());
        assert!(!guard.is_lost());
        s.assert_held(&[(NAME, "ours")]).await;
        assert!(s.theirs.acquire(NAME).await.is_err());
        guard.release().await.expect("it is held");
        s.assert_both_work().await;
    });
}

#[test]
fn the_first_write_lands_late_and_others_have_written_since() {
    trace(async |mut s| {
        let asking = land_before_the_repetition(&s).await;
        let landed = s.row().await.version;
        s.theirs.acquire("mail_restart").await.expect("it is free");
        let answer = timeout(SOON, asking).await.expect("in time");
        let guard = answer.expect("no panic").expect("it is granted");
        assert_eq!(guard.token(), landed);
        s.granted(landed);
        let both = [(NAME, "ours"), ("mail_restart", "foreign")];
        s.assert_held(&both).await;
        guard.release().await.expect("it is held");
        s.theirs.release("mail_restart").await.expect("it holds it");
        s.assert_both_work().await;
    });
}

#[test]
fn the_first_write_lands_after_its_request_has_ended() {
    trace(async |s| {
        let asking = land_before_the_repetition(&s).await;
        asking.abort();
        assert!(asking.await.is_err_and(|error| error.is_cancelled()));
        s.assert_both_work().await;
    });
}

/// Between the two statements of `releaseAll` there is no row. The original must be able to insert
/// one: this library does not create it and grants nothing.
#[test]
fn request_between_delete_and_insert_waits_for_the_row() {
    trace(async |mut s| {
        let held_before = s.ours.acquire("other").await.expect("it is free");
        s.theirs.delete_row().await.expect("a table");
        let asking = tokio::spawn(s.ours.acquire(NAME));
        let waiting = tokio::spawn(s.ours.wait("mail_restart").timeout(SETTLED));
        drop(held_before);
        let looking = tokio::spawn(s.ours.held());
        // A slow start of the original.
        sleep(Duration::from_secs(1)).await;
        assert!(!asking.is_finished() && !waiting.is_finished());
        s.theirs.insert_row().await.expect("its start-up succeeds");

        let answer = timeout(SOON, asking).await.expect("in time");
        let guard = answer.expect("no panic").expect("it is free");
        s.granted(guard.token());
        let waited = timeout(SOON, waiting).await.expect("in time");
        let waited = waited.expect("no panic").expect("it is free");
        looking.await.expect("no panic").expect("it is readable");
        s.assert_held(&[(NAME, "ours"), ("mail_restart", "ours")])
            .await;
        let refused = s.theirs.acquire(NAME).await;
        assert!(matches!(refused, Err(OriginalError::Refused { by, .. }) if by == "ours"));
        guard.release().await.expect("it is held");
        waited.release().await.expect("it is held");
        s.assert_both_work().await;
    });
}

/// The original ended between the two statements of its start.
#[test]
fn missing_row_is_created_in_the_end() {
    trace(async |mut s| {
        s.theirs.delete_row().await.expect("a table");
        let limit = Duration::from_secs(30);
        let guard = timeout(limit, s.ours.acquire(NAME)).await.expect("in time");
        let guard = guard.expect("it is free");
        s.granted(guard.token());
        s.assert_held(&[(NAME, "ours")]).await;
        guard.release().await.expect("it is held");
        s.assert_both_work().await;
    });
}

/// `releaseAll` while a process of this library holds nothing and does not read the row. Another
/// process adopts the new row, which ends every session. A later grant to the first process is
/// valid.
#[test]
fn grant_after_another_adoption_is_valid() {
    trace(async |mut s| {
        let second = connect(s.db.url(), "ours-2").await;
        s.theirs.release_all().await.expect("a table");
        let other = second.acquire("other").await.expect("it is free");
        let guard = s.ours.acquire(NAME).await.expect("it is free");
        s.granted(guard.token());
        let limit = Duration::from_secs(1);
        let refused = second.wait(NAME).timeout(limit).await.map(drop);
        assert!(
            refused.as_ref().is_err_and(LockError::is_timeout),
            "{refused:?} while ours is lost: {}",
            guard.is_lost()
        );
        assert!(!guard.is_lost());
        let mut conn = mysql(&s).await;
        guard.fence(&mut conn).await.expect("it holds the lock");
        guard.release().await.expect("it is held");
        other.release().await.expect("it is held");
        s.assert_both_work().await;
    });
}

/// The version starts again several times, during grants to several processes.
#[test]
fn tokens_grow_through_every_start_of_the_original() {
    trace(async |mut s| {
        let second = connect(s.db.url(), "ours-2").await;
        for round in 0..10 {
            if round % 2 == 0 {
                s.theirs.release_all().await.expect("a table");
            } else {
                start_over(&mut s.theirs, round).await;
            }
            for locks in [s.ours.clone(), second.clone()] {
                let guard = locks.acquire(NAME).await.expect("it is free");
                s.granted(guard.token());
                // Some lose their lock while they hold it.
                if round % 3 == 0 {
                    s.theirs.release_all().await.expect("a table");
                    drop(guard);
                } else {
                    guard.release().await.expect("it is held");
                }
            }
        }
        s.assert_both_work().await;
    });
}
