//! Outputs, parameters, and names in the path.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let classes =
        |classes| outputs(json!([{"name": "logits", "parameters": {"classification": classes}}]));
    vec![
        case(
            "unknown output",
            outputs(json!([{"name": "scores"}])),
            "no output \"scores\"",
        ),
        case(
            "the same output twice",
            outputs(json!([{"name": "logits"}, {"name": "logits"}])),
            "\"logits\" twice",
        ),
        case(
            "outputs that are names",
            outputs(json!(["logits"])),
            "outputs[0]",
        ),
        case(
            "a negative number of classes",
            classes(json!(-1)),
            "classification is -1",
        ),
        case(
            "classes as text",
            classes(json!("3")),
            "classification is \"3\"",
        ),
        case(
            "binary_data that is no boolean",
            outputs(json!([{"name": "logits", "parameters": {"binary_data": 1}}])),
            "binary_data is 1",
        ),
        case(
            "output in shared memory",
            outputs(json!([{"name": "logits", "parameters": {"shared_memory_region": "a"}}])),
            "shared_memory_region",
        ),
        case(
            "binary_data_output that is no boolean",
            parameters(json!({"binary_data_output": "yes"})),
            "binary_data_output is \"yes\"",
        ),
        case(
            "a negative timeout",
            parameters(json!({"timeout": -5})),
            "timeout is -5",
        ),
        case(
            "a timeout in words",
            parameters(json!({"timeout": "1s"})),
            "timeout is \"1s\"",
        ),
        case(
            "a timeout of half a microsecond",
            parameters(json!({"timeout": 0.5})),
            "timeout is 0.5",
        ),
        case(
            "a negative priority",
            parameters(json!({"priority": -1})),
            "priority is -1",
        ),
        case(
            "a sequence",
            parameters(json!({"sequence_id": 7})),
            "sequence_id",
        ),
        case(
            "the start of a sequence",
            parameters(json!({"sequence_start": true})),
            "sequence_start",
        ),
        case(
            "unknown model",
            input("name", json!("input")),
            "no model \"n\"",
        )
        .to("n")
        .gets(404),
        case("unknown version", input("name", json!("input")), "version")
            .to("m/versions/9")
            .gets(404),
        case(
            "a model's name that is no UTF-8",
            input("name", json!("input")),
            "UTF-8",
        )
        .to("%ff")
        .gets(404),
    ]
}
