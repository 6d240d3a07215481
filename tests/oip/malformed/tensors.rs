//! Inputs.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let image = |shape| input("shape", shape);
    vec![
        case(
            "unknown input",
            input("name", json!("image")),
            "no input \"image\"",
        ),
        case("input without a name", without("name"), "name"),
        case(
            "a name that is no text",
            input("name", json!(null)),
            "inputs[0].name",
        ),
        case(
            "unknown datatype",
            input("datatype", json!("INT8")),
            "datatype of the input is \"INT8\"",
        ),
        case("no datatype", without("datatype"), "datatype"),
        case("no shape", without("shape"), "shape"),
        case(
            "negative shape",
            image(json!([-1, 3, 8, 8])),
            "[-1,3,8,8], expected [n,3,8,8]",
        ),
        case(
            "huge shape",
            image(json!([i64::MAX, 3, 8, 8])),
            "shape of the input",
        ),
        case(
            "shape that overflows",
            image(json!([1, i64::MAX, i64::MAX, 8])),
            "shape of the input",
        ),
        case(
            "shape beyond every integer",
            image(json!([1e30, 3, 8, 8])),
            "inputs[0].shape[0]",
        ),
        case(
            "shape of text",
            image(json!(["1", 3, 8, 8])),
            "inputs[0].shape[0]",
        ),
        case(
            "shape that is a number",
            image(json!(192)),
            "inputs[0].shape",
        ),
        case("no image", image(json!([0, 3, 8, 8])), "n from 1 to 4"),
        case(
            "more images than allowed",
            image(json!([5, 3, 8, 8])),
            "n from 1 to 4",
        ),
        case(
            "too few dimensions",
            image(json!([3, 8, 8])),
            "expected [n,3,8,8]",
        ),
        case("no dimension", image(json!([])), "expected [n,3,8,8]"),
        case(
            "too many dimensions",
            image(json!(vec![1; 100])),
            "more than 16",
        ),
        case(
            "another size than the model is served with",
            image(json!([1, 3, 9, 9])),
            "served with images of 8x8",
        ),
        case(
            "channels last",
            image(json!([1, 8, 8, 3])),
            "expected [n,3,8,8]",
        ),
        case(
            "too few values",
            input("data", json!(vec![0.5; 191])),
            "191 values, but its shape [1,3,8,8] needs 192",
        ),
        case(
            "values nested in another shape",
            input("data", json!([vec![0.5; 192]])),
            "nested as [1, 192]",
        ),
        case(
            "lists of different lengths",
            input("data", json!([[1, 2], [3]])),
            "side by side",
        ),
        case(
            "lists beside values",
            input("data", json!([1, [2]])),
            "side by side",
        ),
        case(
            "numbers beside texts",
            input("data", json!([1, "AA=="])),
            "both numbers and texts",
        ),
        case("one number", input("data", json!(0.5)), "expected a list"),
        case("booleans", input("data", json!([true])), "inputs[0].data"),
        case(
            "a value beyond f32",
            input("data", json!(vec![1e39; 192])),
            "not finite at index 0",
        ),
        case("no data", without("data"), "no data"),
        case("texts as FP32", input("data", json!(["AA=="])), "text"),
        case(
            "numbers as BYTES",
            bytes_input(json!([1]), json!([1])),
            "numbers",
        ),
        case(
            "BYTES that are no base64",
            bytes_input(json!([1]), json!(["?"])),
            "not base64",
        ),
        case(
            "BYTES of two dimensions",
            bytes_input(json!([1, 2]), json!(["AA==", "AA=="])),
            "expected [n]",
        ),
        case(
            "fewer BYTES than the shape has",
            bytes_input(json!([2]), json!(["AA=="])),
            "1 elements, but its shape [2] needs 2",
        ),
        case(
            "BYTES that are no image",
            bytes_input(json!([1]), json!(["AAAA"])),
            "image 0",
        )
        .gets(422),
        case(
            "BYTES of a format that is not decoded",
            bytes_input(json!([1]), json!(["SUkqAAgAAAAAAAAAAAAAAA=="])),
            "image 0",
        )
        .gets(415),
        case("an image with too many pixels", png_of(RED, 30), "pixels")
            .with(HEADER_LENGTH, "0")
            .gets(413),
        case(
            "shared memory",
            input("parameters", json!({"shared_memory_region": "a"})),
            "shared_memory_region",
        ),
    ]
}
