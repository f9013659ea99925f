//! Lines that are understood, and what is said to others.

#![allow(clippy::unwrap_used)]

use super::*;

fn parse_line(line: &str) -> Result<Parsed, Refusal> {
    parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
}

#[test]
fn the_grammar_is_sound() {
    Line::command().debug_assert();
}

/// What the stock client says and answers to the same lines.
#[test]
fn refusals_have_the_stock_clients_words_and_codes() {
    for (line, code, first) in [
        ("docker ps --foo", 125, "unknown flag: --foo"),
        ("docker foo", 1, "docker: unknown command: docker foo"),
        ("docker container foo", 1, "docker: unknown command: docker container foo"),
        ("docker run", 1, "docker: 'docker run' requires at least 1 argument"),
        ("docker run --foo x", 125, "unknown flag: --foo"),
        ("docker run --name", 125, "flag needs an argument: --name"),
        ("docker rm", 1, "docker: 'docker rm' requires at least 1 argument"),
        ("docker ps extra", 1, "docker: 'docker ps' accepts no arguments"),
        ("docker swarm foo", 1, "docker: unknown command: docker swarm foo"),
        ("docker exec web", 1, "docker: 'docker exec' requires at least 2 arguments"),
        (
            "docker ps -f x",
            125,
            "invalid argument \"x\" for \"-f, --filter\" flag: bad format of filter (expected name=value)",
        ),
    ] {
        let refusal = parse_line(line).unwrap_err();
        assert_eq!((refusal.code, refusal.text.lines().next().unwrap()), (code, first), "{line}");
        assert!(!refusal.asked_for, "{line}");
    }
}

#[test]
fn help_is_an_answer() {
    for line in [
        "docker",
        "docker --help",
        "docker run --help",
        "docker swarm",
        "docker swarm --help",
        "docker swarm init --help",
        "docker --version",
        "docker container",
    ] {
        let refusal = parse_line(line).unwrap_err();
        assert_eq!(refusal.code, 0, "{line}");
        assert!(refusal.asked_for, "{line}");
    }
    let help = parse_line("docker swarm --help").unwrap_err().text;
    for command in ["init", "join", "join-token", "leave", "update", "ca", "unlock", "unlock-key"] {
        assert!(help.contains(&format!("  {command} ")), "{command}: {help}");
    }
    assert!(parse_line("docker --version").unwrap_err().text.starts_with("Docker version "));
}

#[test]
fn everyday_lines_are_understood() {
    for line in [
        "docker run --rm -it -p 8080:80 -v /a:/b -e A=1 --name x busybox sh -c -- true",
        "docker run -dp 80:80 -h host --net=host -m 64m --sig-proxy=false --rm=true busybox",
        "docker -H tcp://1.2.3.4:2376 --tlsverify --tlscacert ca --tlscert cert --tlskey key ps -aq --no-trunc",
        "docker -l debug --debug container ls -f status=running --format {{.ID}}",
        "docker exec -it web sh -l",
        "docker exec web ls -la --color",
        "docker logs -f --tail 10 -t --since 1h web",
        "docker top web -ef",
        "docker stop -t 0 a b",
        "docker stop --time=3 a",
        "docker rm -fv a b",
        "docker inspect -f {{.Id}} --type container a",
        "docker cp a:/x -",
        "docker stats --no-stream",
        "docker network create --subnet 10.0.0.0/24 -o a=b n",
        "docker system prune -af --volumes",
        "docker ps -n 3 -l -s",
        "docker update --restart always -m 1g a",
        "docker swarm join --token t 1.2.3.4:2377",
    ] {
        assert!(parse_line(line).is_ok(), "{line}: {:?}", parse_line(line).unwrap_err().text);
    }
}
