"""A module as a TPU's compiler writes it, much shortened: two loops, a kernel, collectives of every form."""

# ruff: noqa: E501 - lines are the compiler's

KERNEL = """  %kernel.1 = bf16[8,128]{1,0} custom-call(%gte.1), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/attention"}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"1970000000","bytes_accessed":"8"}}}"""

TEXT = f"""HloModule jit_step, is_scheduled=true, entry_computation_layout={{(bf16[8,128]{{1,0}})->bf16[8,128]{{1,0}}}}

%sum (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.9 = f32[] add(%a, %b)
}}

%fused_matmul (p0: bf16[8,128], p1: bf16[128,128]) -> bf16[8,128] {{
  %p0 = bf16[8,128]{{1,0}} parameter(0)
  %p1 = bf16[128,128]{{1,0}} parameter(1)
  ROOT %dot.1 = bf16[8,128]{{1,0}} dot(%p0, %p1), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%fused_start (q0: bf16[32,128]) -> (bf16[32,128], bf16[128,128]) {{
  %q0 = bf16[32,128]{{1,0}} parameter(0)
  %all-gather.1 = bf16[128,128]{{1,0}} all-gather(%q0), channel_id=7, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
  ROOT %s.1 = (bf16[32,128]{{1,0}}, bf16[128,128]{{1,0}}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}}

%fused_carrier (r0: bf16[8,128], r1: bf16[32,128]) -> (bf16[8,128], bf16[128,128]) {{
  %r0 = bf16[8,128]{{1,0}} parameter(0)
  %r1 = bf16[32,128]{{1,0}} parameter(1)
  %c.1 = bf16[128,128]{{1,0}} constant({{...}})
  %dot.2 = bf16[8,128]{{1,0}} dot(%r0, %c.1), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  %all-gather.2 = bf16[128,128]{{1,0}} all-gather(%r1), channel_id=7, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
  ROOT %t.2 = (bf16[8,128]{{1,0}}, bf16[128,128]{{1,0}}) tuple(%dot.2, %all-gather.2)
}}

%fused_done (u0: bf16[128,128]) -> bf16[128,128] {{
  %u0 = bf16[128,128]{{1,0}} parameter(0)
  %all-gather.3 = bf16[128,128]{{1,0}} all-gather(%u0), channel_id=7, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
  ROOT %d.1 = bf16[128,128]{{1,0}} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}}

%body (state: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {{
  %state = (s32[]{{:T(128)}}, bf16[8,128]{{1,0}}) parameter(0)
  %gte.0 = s32[]{{:T(128)}} get-tuple-element(%state), index=0
  %gte.1 = bf16[8,128]{{1,0}} get-tuple-element(%state), index=1
  %one = s32[] constant(1)
  %next = s32[]{{:T(128)}} add(%gte.0, %one)
{KERNEL}
  %w = bf16[128,128]{{1,0}} constant({{...}})
  %matmul = bf16[8,128]{{1,0}} fusion(%kernel.1, %w), kind=kOutput, calls=%fused_matmul, metadata={{op_name="jit(step)/mlp"}}, backend_config={{"window_config":{{"estimated_cycles":"1500"}}}}
  ROOT %out = (s32[]{{:T(128)}}, bf16[8,128]{{1,0}}) tuple(%next, %matmul)
}}

%condition (state.1: (s32[], bf16[8,128])) -> pred[] {{
  %state.1 = (s32[]{{:T(128)}}, bf16[8,128]{{1,0}}) parameter(0)
  %gte.2 = s32[]{{:T(128)}} get-tuple-element(%state.1), index=0
  %limit = s32[] constant(32)
  ROOT %lt = pred[] compare(%gte.2, %limit), direction=LT
}}

%ring (state.2: (bf16[8,128], u32[])) -> (bf16[8,128], u32[]) {{
  %state.2 = (bf16[8,128]{{1,0}}, u32[]{{:T(128)}}) parameter(0)
  %gte.3 = bf16[8,128]{{1,0}} get-tuple-element(%state.2), index=0
  %gte.4 = u32[]{{:T(128)}} get-tuple-element(%state.2), index=1
  %two = u32[] constant(2)
  %next.1 = u32[]{{:T(128)}} add(%gte.4, %two)
  %collective-permute-start.1 = (bf16[8,128]{{1,0}}, bf16[8,128]{{1,0}}, u32[], u32[]) collective-permute-start(%gte.3), channel_id=8, source_target_pairs={{{{0,1}},{{1,2}},{{2,3}},{{3,0}}}}
  %w.1 = bf16[128,128]{{1,0}} constant({{...}})
  %matmul.1 = bf16[8,128]{{1,0}} fusion(%gte.3, %w.1), kind=kOutput, calls=%fused_matmul, backend_config={{"estimated_cycles":"15"}}
  %collective-permute-done.1 = bf16[8,128]{{1,0}} collective-permute-done(%collective-permute-start.1)
  ROOT %out.1 = (bf16[8,128]{{1,0}}, u32[]{{:T(128)}}) tuple(%collective-permute-done.1, %next.1)
}}

%ring_condition (state.3: (bf16[8,128], u32[])) -> pred[] {{
  %state.3 = (bf16[8,128]{{1,0}}, u32[]{{:T(128)}}) parameter(0)
  %gte.5 = u32[]{{:T(128)}} get-tuple-element(%state.3), index=1
  %limit.1 = u32[] constant(7)
  ROOT %lt.1 = pred[] compare(%gte.5, %limit.1), direction=LT
}}

ENTRY %main (x: bf16[8,128], y: bf16[32,128]) -> bf16[8,128] {{
  %x = bf16[8,128]{{1,0:T(8,128)(2,1)}} parameter(0)
  %y = bf16[32,128]{{1,0:T(8,128)(2,1)S(1)}} parameter(1)
  %zero = s32[] constant(0)
  %copy.1 = s32[]{{:T(128)}} copy(%zero)
  %init = (s32[]{{:T(128)}}, bf16[8,128]{{1,0}}) tuple(%copy.1, %x)
  %while.1 = (s32[]{{:T(128)}}, bf16[8,128]{{1,0}}) while(%init), condition=%condition, body=%body
  %gte.6 = bf16[8,128]{{1,0}} get-tuple-element(%while.1), index=1
  %start = (bf16[32,128]{{1,0}}, bf16[128,128]{{1,0}}) fusion(%y), kind=kCustom, calls=%fused_start
  %carrier = (bf16[8,128]{{1,0}}, bf16[128,128]{{1,0}}) fusion(%gte.6, %y), kind=kOutput, calls=%fused_carrier, backend_config={{"estimated_cycles":"300"}}
  %gte.7 = bf16[128,128]{{1,0}} get-tuple-element(%carrier), index=1
  %done = bf16[128,128]{{1,0}} fusion(%gte.7), kind=kCustom, calls=%fused_done
  %zero.1 = u32[] constant(1)
  %init.1 = (bf16[8,128]{{1,0}}, u32[]{{:T(128)}}) tuple(%gte.6, %zero.1)
  %while.2 = (bf16[8,128]{{1,0}}, u32[]{{:T(128)}}) while(%init.1), condition=%ring_condition, body=%ring
  %gte.8 = bf16[8,128]{{1,0}} get-tuple-element(%while.2), index=0
  %all-reduce.1 = f32[512,1024]{{1,0}} all-reduce(%gte.8), channel_id=9, replica_groups=[1,4]<=[4], to_apply=%sum
  ROOT %copy.2 = bf16[8,128]{{1,0}} copy(%gte.8), backend_config={{"estimated_cycles":"3000"}}
}}
"""
