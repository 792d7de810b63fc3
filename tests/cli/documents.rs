//! What the documents say is so.

use std::fs;
use std::path::Path;

use crate::common::Project;
use serde_json::json;

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let found: Vec<String> = text
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_string())
        .collect();
    assert!(!found.is_empty(), "no block of {language}");
    found
}

/// First cells of the table that begins with this header.
fn first_cells<'a>(text: &'a str, header: &str) -> Vec<&'a str> {
    let table = text.split(header).nth(1).expect(header);
    table
        .lines()
        .skip(2)
        .map_while(|row| row.strip_prefix("| "))
        .map(|row| row.split(" |").next().unwrap())
        .collect()
}

/// `` `a`, `b` `` -> a, b.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_first_two_commands_are_the_example_and_the_tests() {
    let readme = document("README.md");
    let commands: Vec<String> = blocks(&readme, "sh")
        .iter()
        .flat_map(|b| b.lines().map(str::to_string).collect::<Vec<_>>())
        .collect();
    assert_eq!(commands[0], "cargo run --release -- examples/hello");
    assert_eq!(commands[1], "cargo test");
}

#[test]
fn every_configuration_in_the_readme_is_right() {
    for block in blocks(&document("README.md"), "toml") {
        Project::new(&block).cli(["check"]).exits(0);
    }
}

#[test]
fn every_key_in_the_readme_is_known() {
    let readme = document("README.md");
    for cell in first_cells(&readme, "| key | default | meaning |") {
        for key in names(cell) {
            // A table is the wrong type of most of them, which is another error.
            let top = Project::new(&format!("{key} = {{}}\n[process.a]\ncommand = \"true\"\n"));
            let process = Project::new(&format!("[process.a]\n{key} = {{}}\n"));
            let unknown = |project: &Project| {
                project
                    .cli(["check"])
                    .err
                    .contains(&format!("unknown key \"{key}\""))
            };
            assert!(!unknown(&top) || !unknown(&process), "{key}");
        }
    }
}

#[test]
fn every_command_in_the_readme_is_in_the_help() {
    let project = Project::empty();
    let help = project.cli(["--help"]).exits(0).out;
    let readme = document("README.md");
    let mut seen = 0;
    for block in blocks(&readme, "sh") {
        for line in block.lines().filter_map(|l| l.strip_prefix("bpm ")) {
            let word = line.split(' ').next().unwrap();
            assert!(
                help.split(|c: char| c.is_whitespace() || c == ',')
                    .any(|w| w == word),
                "{word} is not in the help"
            );
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn every_tool_in_the_readme_is_there() {
    let mut project = Project::new("[process.nap]\ncommand = [\"sleep\", \"1000\"]\n");
    project.serve();
    let list = project.rpc("tools/list", json!({}));
    let readme = document("README.md");
    for cell in first_cells(&readme, "| tool | does |") {
        for tool in names(cell) {
            let found = list["result"]["tools"]
                .as_array()
                .unwrap()
                .iter()
                .any(|t| t["name"] == tool);
            assert!(found, "{tool}");
        }
    }
}

#[test]
fn the_example_is_right() {
    let project = Project::new(&document("examples/hello/.mcp-run"));
    project.cli(["check"]).exits(0);
}

#[test]
fn a_change_is_one_line() {
    let changes = document("CHANGELOG.md");
    assert!(changes.contains("\n## Unreleased\n"));
    for line in changes.lines() {
        let fits = line.is_empty() || line.starts_with(['#', '-']) || line.starts_with("One line");
        assert!(fits, "{line}");
    }
}

#[test]
fn programs_of_the_man_page_are_those_that_are_run() {
    let page = document("man/mcp-run.5");
    let table = page.split(".Sh PROGRAMS").nth(1).unwrap();
    let table = table.split(".El").next().unwrap();
    let rows = table.lines().filter_map(|row| row.strip_prefix(".It "));
    // The first is the heading.
    let named: Vec<&str> = rows
        .skip(1)
        .map(|row| row.split(' ').next().unwrap())
        .collect();
    let script = document("tests/programs/run");
    let cases = script
        .lines()
        .filter_map(|row| row.strip_prefix("    Case(\""));
    let run: Vec<&str> = cases.map(|row| row.split('"').next().unwrap()).collect();
    assert_eq!(named, run);
    assert_eq!(run.len(), 20);
    for name in run {
        let text = document(&format!("tests/programs/{name}/.mcp-run"));
        assert!(text.contains(&format!("[process.{name}]")), "{name}");
    }
}
