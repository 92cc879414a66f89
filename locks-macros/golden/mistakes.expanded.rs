#[allow(unused_variables)]
async fn install(app_id: &str) -> Result<(), TaskError> {
    Ok(())
}
::core::compile_error! {
    "`wait` and `acquire` contradict each other: keep `wait` to wait for the lock, or `acquire` to fail at once if it is not available"
}
::core::compile_error! {
    "`<app>` in \"app_task_<app>\" is not an argument: the arguments of `install` are `app_id`"
}
