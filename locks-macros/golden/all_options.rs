#[with_lock(
    "app_task_<id>",
    shared("platform", "host_<state.host>"),
    wait = "1m 30s",
    max_hold = "10m",
    busy = Ok(Skipped { id, reason: "busy" }),
    locks = state.locks,
    guard = lock,
    on_lost = "continue",
    matrix = crate::MATRIX,
    map_err = TaskError::Lock,
    crate = crate::facade::locks,
)]
async fn back_up(App { id, .. }: App, state: &State) -> Result<Outcome, TaskError> {
    state.store(id, lock.token()).await
}
