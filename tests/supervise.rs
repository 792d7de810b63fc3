//! Processes run, as the configuration says.

mod common;

use common::House;

#[test]
fn a_command_runs_and_its_output_is_kept() {
    let mut house = House::new(
        r#"
        [process.hello]
        command = ["sh", "-c", "echo hello; exec sleep 1000"]
        "#,
    );
    house.serve();
    assert_eq!(house.line("hello", "hello"), "hello");
}
