//! Races between commits and evictions on different nodes.

use std::time::{Duration, Instant};

use locks_core::{LockError, LockManager};
use locks_tests::{cluster::NODES, engine::note, race::Race};
use sqlx::MySqlPool;

use super::scene::{CAUSAL, PLAIN, Scene, has, insert, on_cluster};

/// The most races between a commit and an eviction, their duration, and the number of lanes.
const RACES: usize = 500;
const RACING: Duration = Duration::from_secs(15);
const ENOUGH_RACES: usize = 50;
const LANES: usize = 5;

/// A holder and a supervisor on different nodes, in a namespace of their own. In every second lane
/// the holder's application is on the third node.
struct Lane {
    number: usize,
    holder: LockManager,
    supervisor: LockManager,
    /// The connections of the holder's application and of the next holder's.
    pools: [MySqlPool; 2],
    race: Race,
    committed: usize,
    lost: usize,
    /// Commits that were refused with another error than `Lost`.
    misreported: Vec<LockError>,
}

#[test]
fn a_commit_never_succeeds_after_an_eviction_on_another_node() {
    on_cluster(races);
}

async fn races(scene: Scene) {
    scene.create_tables().await;
    let start = Instant::now();
    let lane = async |number: usize| {
        let namespace = format!("lane_{number}");
        let (node, next) = (number % NODES, (number + 1) % NODES);
        let application = if number.is_multiple_of(2) {
            scene.pool(node, PLAIN).await
        } else {
            scene.pool((number + 2) % NODES, CAUSAL).await
        };
        let mut lane = Lane {
            number,
            holder: scene.connect(node, &namespace, "holder").await,
            supervisor: scene.connect(next, &namespace, "supervisor").await,
            pools: [application, scene.pool(next, PLAIN).await],
            race: Race::default(),
            committed: 0,
            lost: 0,
            misreported: Vec::new(),
        };
        for race in 0..RACES / LANES {
            if start.elapsed() > RACING {
                break;
            }
            Box::pin(lane.race(race)).await;
        }
        lane
    };
    let lanes = tokio::join!(lane(0), lane(1), lane(2), lane(3), lane(4));
    let lanes: [_; LANES] = lanes.into();
    let sum = |count: fn(&Lane) -> usize| lanes.iter().map(count).sum::<usize>();
    let (committed, lost) = (sum(|lane| lane.committed), sum(|lane| lane.lost));
    let misreported = sum(|lane| lane.misreported.len());
    let races = committed + lost + misreported;
    note(&format!(
        "Galera: of {races} commits that raced with an eviction, {committed} came first, {lost} \
         were lost, {misreported} were refused otherwise"
    ));
    let first = lanes.iter().find_map(|lane| lane.misreported.first());
    assert_eq!(misreported, 0, "of {races}: {first:?}");
    assert!(races >= ENOUGH_RACES, "{races} races only");
    // A race with only one outcome shows nothing.
    assert!(committed > races / 10 && lost > races / 10);
}

impl Lane {
    async fn race(&mut self, race: usize) {
        let entry = format!("{}_{race}", self.number);
        let guard = self.holder.acquire("x").await.expect("it is free");
        let evict = async {
            let taken = self.supervisor.release_task("holder").await;
            assert_eq!(taken.expect("the node answers").len(), 1);
            let next = self.supervisor.acquire("x").await.expect("it is free");
            // What the next holder sees on its own node. A node applies writes in the order of the
            // cluster, so the commit is visible if it came before the eviction.
            (has(&self.pools[1], &entry).await, next)
        };
        let commit = async {
            let tx = insert(&self.pools[0], &entry).await;
            guard.commit(tx.expect("no other task has it")).await
        };
        let (committed, (seen, next)) = Box::pin(self.race.run(commit, evict)).await;
        self.race.note(committed.is_ok());
        assert_eq!(
            committed.is_ok(),
            seen,
            "the next holder saw {seen}, the commit was answered with {committed:?}"
        );
        assert_eq!(committed.is_ok(), has(&self.pools[0], &entry).await);
        match committed {
            Ok(()) => self.committed += 1,
            Err(error) if error.is_lost() => self.lost += 1,
            Err(error) => self.misreported.push(error),
        }
        let released = guard.release().await;
        assert!(released.expect_err("it was evicted").is_lost());
        next.release().await.expect("it is held");
    }
}
