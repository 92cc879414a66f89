/// Installs it.
pub async fn install<T: Source>(
    app: &App,
    source: T,
    __locks_arg2: u8,
) -> Result<impl Iterator<Item = u8>, TaskError> {
    use ::locks_core::__private as __locks_private;
    let __locks_errors = __locks_private::from_lock_error::<Result<_, TaskError>, _>();
    let __locks_call = __locks_private::Call::new([
        __locks_private::name(
            &[
                __locks_private::text("app_task_"),
                __locks_private::value("<app.id>", &app.id),
            ],
        ),
        __locks_private::name(
            &[
                __locks_private::text("app_backup_"),
                __locks_private::value("<app.id>", &app.id),
            ],
        ),
    ]);
    let __locks_locked_call = match __locks_private::lock(__locks_call).await {
        ::core::result::Result::Ok(__locks_locked_call) => __locks_locked_call,
        ::core::result::Result::Err(__locks_error) => {
            return __locks_errors.convert(__locks_error);
        }
    };
    let __locks_value = {
        let __locks_body = ::core::pin::pin!(
            async move { #[allow(clippy::needless_return)] if false { return
            __locks_private::declare_return_type:: < Result < _, TaskError > > (); }
            #[allow(clippy::no_effect_underscore_binding, clippy::redundant_locals,
            clippy::shadow_same, clippy::used_underscore_binding)] let app = app;
            __locks_private::move_into_body(& app);
            #[allow(clippy::no_effect_underscore_binding, clippy::redundant_locals,
            clippy::shadow_same, clippy::used_underscore_binding)] let mut source =
            source; __locks_private::move_into_body(& __locks_arg2); let _ =
            __locks_arg2; #[allow(unused_braces, clippy::diverging_sub_expression)] let
            __locks_value : Result < _, TaskError > = { let bytes = source.fetch(). await
            ?; Ok(bytes.into_iter()) }; #[allow(unreachable_code)] __locks_value }
        );
        let __locks_value = __locks_private::run(
                &__locks_locked_call,
                __locks_errors,
                __locks_body,
            )
            .await;
        __locks_value
    };
    __locks_private::unlock(__locks_locked_call, __locks_errors, __locks_value).await
}
