#[allow(unused_variables)]
async fn install(app_id: &str) -> Result<(), TaskError> {
    Ok(())
}
::core::compile_error! {
    "`wait` and `acquire` contradict each other: keep `wait` to queue for the lock, or `acquire` to fail at once when it is taken"
}
::core::compile_error! {
    "`<app>` in \"app_task_<app>\" names no argument: those of `install` are `app_id`"
}
