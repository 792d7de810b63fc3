use super::*;

#[test]
fn numbers_are_read_as_std_reads_them() {
    for text in [
        "0",
        "2",
        "-0.5",
        "+7",
        "1e-3",
        "1E3",
        ".5",
        "5.",
        "0.1",
        "1.5",
        "2.25",
        "-1",
        "0.000001",
        "600.125",
        "1e22",
        "123456789012345",
        "0.123456789012345",
        "1e-15",
        "1.5e20",
        "0e999999999",
        "00012.50",
        "99999999999999999999999",
        "3.14159265358979323846",
    ] {
        let (ours, theirs) = (parse(text), text.parse::<f64>().unwrap());
        let off = (ours.unwrap() - theirs).abs();
        assert!(off <= theirs.abs() * f64::EPSILON, "{text}: {ours:?}");
        if text.len() < 16 {
            assert_eq!(ours, Some(theirs), "{text}");
        }
    }
    assert_eq!(parse("1e400"), Some(f64::INFINITY));
    assert_eq!(parse("1e-400"), Some(0.0));
    for text in [
        "",
        ".",
        "-",
        "+",
        "e5",
        "1e",
        "1.2.3",
        "--1",
        "1_0",
        "inf",
        "nan",
        " 1",
        "1 ",
        "1e99999999999",
    ] {
        assert_eq!(parse(text), None, "{text}");
    }
}

#[test]
fn numbers_are_written_as_std_writes_them() {
    for nanos in [
        0,
        1,
        250_000_000,
        100_000_000,
        2_000_000_000,
        12_345_678_900,
        90_000_000_000,
    ] {
        let span = Duration::from_nanos(nanos);
        assert_eq!(seconds(span), span.as_secs_f64().to_string());
    }
    for value in [
        0.0, 0.5, 1.25, 1.75, 2.5, 0.04, 0.06, 1.0, 9.96, 12.34, 99.9, 1023.6,
    ] {
        for digits in 0..4 {
            assert_eq!(fixed(value, digits), format!("{value:.digits$}"));
        }
    }
}
