async fn back_up(__locks_arg0: App, state: &State) -> Result<Outcome, TaskError> {
    use crate::facade::locks::__private as __locks_private;
    const __LOCKS_MATRIX: __locks_private::ConflictMatrix = crate::MATRIX;
    const _: () = __locks_private::assert_in_matrix(
        &__LOCKS_MATRIX,
        __locks_private::Known::Prefix("app_task_"),
        "\"app_task_<id>\" matches no pattern of `crate::MATRIX`: correct its spelling, or add a rule for it",
    );
    const _: () = __locks_private::assert_in_matrix(
        &__LOCKS_MATRIX,
        __locks_private::Known::Name("platform"),
        "\"platform\" matches no pattern of `crate::MATRIX`: correct its spelling, or add a rule for it",
    );
    const _: () = __locks_private::assert_in_matrix(
        &__LOCKS_MATRIX,
        __locks_private::Known::Prefix("host_"),
        "\"host_<state.host>\" matches no pattern of `crate::MATRIX`: correct its spelling, or add a rule for it",
    );
    let __locks_errors = __locks_private::result_type::<Result<Outcome, TaskError>, _>()
        .map_err(TaskError::Lock);
    let __locks_call = {
        #[allow(unused_variables)]
        let App { id, .. } = &__locks_arg0;
        let __locks_call = __locks_private::Call::new([
            __locks_private::name(
                &[
                    __locks_private::text("app_task_"),
                    __locks_private::value("<id>", &id),
                ],
            ),
        ]);
        let __locks_call = __locks_call
            .shared([
                __locks_private::name(&[__locks_private::text("platform")]),
                __locks_private::name(
                    &[
                        __locks_private::text("host_"),
                        __locks_private::value("<state.host>", &state.host),
                    ],
                ),
            ])
            .timeout(90u64, 0u32)
            .max_hold(600u64, 0u32)
            .continue_when_lost()
            .matrix(&__LOCKS_MATRIX)
            .manager(&state.locks);
        __locks_call
    };
    let __locks_locked_call = match __locks_private::lock(__locks_call).await {
        ::core::result::Result::Ok(__locks_locked_call) => __locks_locked_call,
        ::core::result::Result::Err(
            __locks_error,
        ) if !__locks_private::is_refused(&__locks_error) => {
            return __locks_errors.convert(__locks_error);
        }
        ::core::result::Result::Err(_) => {
            #[allow(unused_variables, unused_mut)]
            let App { id, .. } = __locks_arg0;
            #[allow(unreachable_code)] return Ok(Skipped { id, reason: "busy" });
        }
    };
    let __locks_guard = __locks_private::guard(&__locks_locked_call);
    let __locks_value = {
        let __locks_body = ::core::pin::pin!(
            async move { #[allow(clippy::needless_return)] if false { return
            __locks_private::declare_return_type:: < Result < Outcome, TaskError > > ();
            } __locks_private::move_into_body(& __locks_arg0); let App { id, .. } =
            __locks_arg0; __locks_private::move_into_body(& id);
            #[allow(clippy::no_effect_underscore_binding, clippy::redundant_locals,
            clippy::shadow_same, clippy::used_underscore_binding)] let state = state;
            __locks_private::move_into_body(& state); let lock = __locks_guard;
            #[allow(unused_braces, clippy::diverging_sub_expression)] let __locks_value :
            Result < Outcome, TaskError > = { state.store(id, lock.token()). await };
            #[allow(unreachable_code)] __locks_value }
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
