use super::*;

#[test]
fn the_default_file_is_the_defaults_and_names_every_key() {
    let text = Settings::default_file();
    assert_eq!(Settings::parse(&text).unwrap(), Settings::defaults());
    for arg in command().get_arguments() {
        let (key, env) = (arg.get_long().unwrap(), arg.get_env().unwrap());
        assert!(text.contains(&format!("\n{key} = ")) || text.contains(&format!("\n# {key} = ")));
        let expected = format!("{PREFIX}{}", key.to_uppercase().replace('-', "_"));
        assert_eq!(env.to_str().unwrap(), expected);
    }
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = \"FILE\"") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let all = Settings::parse(&uncommented).unwrap();
    assert_eq!(all.ledger, Some("FILE".into()));
}

#[test]
fn what_is_nearer_to_the_command_line_is_preferred() {
    let file =
        Settings::parse("max-sessions = 3\nidle-timeout = \"5m\"\nmodel = [\"a\", \"b\"]").unwrap();
    let flags = Settings {
        max_sessions: Some(5),
        ..Settings::default()
    };
    let options = flags.over(file).options().unwrap();
    assert_eq!(options.limits.max_sessions, 5);
    assert_eq!(options.limits.idle_timeout, Duration::from_secs(300));
    assert_eq!(options.models, [PathBuf::from("a"), "b".into()]);
    assert_eq!(options.max_batch, 16);
}

#[test]
fn unknown_keys_and_impossible_values_are_refused_by_name() {
    for (text, name) in [
        ("max-session = 3", "max-session"),
        ("[tls]\ncert = \"x\"", "tls"),
        ("max-sessions = \"many\"", "max-sessions"),
        ("idle-timeout = \"soon\"", "idle-timeout"),
        ("packing-bandwidth = \"fast\"", "packing-bandwidth"),
        ("listen = 5", "listen"),
        ("admin-listen = \"on\"", "admin-listen"),
        ("repository-mode = \"push\"", "repository-mode"),
        ("calls-per-minute = 0", "calls-per-minute"),
    ] {
        let said = Settings::parse(text).unwrap_err();
        assert!(said.contains(name), "{said}");
    }
    for (text, name) in [
        ("max-batch = 65", "max-batch"),
        ("max-sessions = 0", "max-sessions"),
        (
            "repository = \"r\"\nmodel-version = [\"a=new\"]",
            "model-version",
        ),
        ("model-version = [\"a=1\"]", "model-version"),
        ("prepared-memory = 0", "prepared-memory"),
        ("tls-cert = \"x\"", "tls-cert"),
        ("tls-key = \"x\"", "tls-key"),
        ("tls-client-ca = \"x\"", "tls-client-ca"),
        ("idle-timeout = \"0s\"", "idle-timeout"),
    ] {
        let error = Settings::parse(text).unwrap().options().unwrap_err();
        assert!(error.to_string().starts_with(name), "{error}");
    }
}

#[test]
fn variables_that_mean_nothing_are_refused_and_those_of_kubernetes_are_not() {
    let check = |name: &str| Settings::check_variables([name.to_owned()].into_iter());
    for name in [
        "PI_SERVER_LISTEN",
        "PI_SERVER_CONFIG",
        "PI_SERVER",
        "HOME",
        "PI_SERVER_SERVICE_HOST",
        "PI_SERVER_PORT",
        "PI_SERVER_PORT_50051_TCP_ADDR",
        "PI_SERVER_GRPC_SERVICE_PORT_GRPC",
    ] {
        check(name).unwrap();
    }
    let said = check("PI_SERVER_MAX_SESSION").unwrap_err().to_string();
    assert!(said.contains("PI_SERVER_MAX_SESSION,"), "{said}");
}

#[test]
fn the_help_shows_the_defaults() {
    let help = Settings::show_defaults(command())
        .render_long_help()
        .to_string();
    for text in [
        "[default: 127.0.0.1:50051]",
        "[default: 100Mbit]",
        "[default: 16]",
    ] {
        assert!(help.contains(text), "{help}");
    }
}

#[test]
fn a_flag_for_yes_needs_no_value_and_a_file_can_be_overruled() {
    use clap::FromArgMatches as _;
    let flags = |args: &[&str]| {
        let args = [&["serve"], args].concat();
        Settings::from_arg_matches(&command().try_get_matches_from(args).unwrap()).unwrap()
    };
    let file = Settings::parse("silent-ot = true").unwrap();
    assert_eq!(
        flags(&["--silent-ot", "--model", "x"]).silent_ot,
        Some(true)
    );
    let overruled = flags(&["--silent-ot=false"]).over(file).options().unwrap();
    assert!(!overruled.limits.silent_ot);
}
