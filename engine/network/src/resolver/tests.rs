//! What becomes of questions, without sockets.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine_model::Endpoint;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use jiff::Timestamp;

use super::question::{Asker, Outcome, Transport, consider};
use crate::names::Names;
use crate::{Attachment, NetworkKind, NetworkRecord};

fn network(name: &str) -> NetworkRecord {
    NetworkRecord {
        id: format!("id-of-{name}"),
        name: name.to_owned(),
        created: Timestamp::UNIX_EPOCH,
        internal: false,
        attachable: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        pools: Vec::new(),
        kind: NetworkKind::Null,
    }
}

fn on(network: &str, container: &str, address: Ipv4Addr, aliases: &[&str]) -> Attachment {
    let endpoint = Endpoint {
        endpoint_id: format!("{container}-{network}"),
        network_id: format!("id-of-{network}"),
        network_name: network.to_owned(),
        container_name: container.to_owned(),
        interface: "eth0".to_owned(),
        host_interface: String::new(),
        address,
        prefix: 16,
        gateway: None,
        ipv6: None,
        mac_address: String::new(),
        mtu: 1500,
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        links: Vec::new(),
        gw_priority: 0,
    };
    let container = format!("{container:0<64}");
    Attachment { container, endpoint, ports: Vec::new(), naming: None }
}

fn names() -> Names {
    let names = Names::default();
    let address = |last| Ipv4Addr::new(10, 0, 0, last);
    names.replace(
        &[network("inner"), network("other.net"), network("bridge")],
        &[
            on("inner", "Asker", address(2), &[]),
            on("other.net", "Asker", Ipv4Addr::new(10, 1, 0, 2), &[]),
            on("inner", "web1", address(3), &["www"]),
            on("inner", "web2", address(4), &["www"]),
            on("inner", "web3", address(5), &["www", "Big"]),
            on("other.net", "web1", Ipv4Addr::new(10, 1, 0, 3), &["there"]),
            on("bridge", "Asker", Ipv4Addr::new(172, 17, 0, 2), &[]),
            on("bridge", "nameless", Ipv4Addr::new(172, 17, 0, 3), &[]),
        ],
    );
    names
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn asked(names: &Names, bytes: &[u8], transport: Transport, has_dots: bool) -> Outcome {
    let container = format!("{:0<64}", "Asker");
    consider(bytes, transport, &Asker { container: &container, names, has_dots })
}

/// The answer, or that it is left for others.
fn ask(names: &Names, message: &Message) -> Option<Message> {
    match asked(names, &message.to_vec().unwrap(), Transport::Udp, false) {
        Outcome::Answer(bytes) => {
            let answer = Message::from_vec(&bytes).unwrap();
            assert_eq!((answer.metadata.id, answer.metadata.message_type), (4711, MessageType::Response));
            assert!(answer.metadata.recursion_available);
            Some(answer)
        }
        Outcome::Forward(_) => None,
        Outcome::Nothing => panic!("no answer"),
    }
}

fn addresses(answer: &Message) -> Vec<String> {
    let shown = answer.answers.iter().map(|record| match &record.data {
        RData::A(address) => address.0.to_string(),
        RData::PTR(name) => name.0.to_ascii(),
        other => panic!("{other:?}"),
    });
    shown.collect()
}

#[test]
fn names_of_all_networks_of_a_container_are_known() {
    let names = names();
    let found = |name: &str| {
        ask(&names, &question(name, RecordType::A)).map(|answer| {
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            addresses(&answer)
        })
    };
    let some = |address: &str| Some(vec![address.to_owned()]);
    assert_eq!(found("web1."), some("10.0.0.3"));
    assert_eq!(found("WEB1."), some("10.0.0.3"));
    assert_eq!(found("asker."), some("10.0.0.2"));
    assert_eq!(found("web100000000."), some("10.0.0.3"), "the short id");
    assert_eq!(found("big."), some("10.0.0.5"));
    assert_eq!(found("there."), some("10.1.0.3"));
    assert_eq!(found("web1.inner."), some("10.0.0.3"));
    assert_eq!(found("web1.other.net."), some("10.1.0.3"));
    assert_eq!(found("web2.other.net."), None);
    // On the default bridge there are no names.
    assert_eq!(found("nameless."), None);
    assert_eq!(found("web1.example.com."), None);
    assert_eq!(found("."), None);
    names.leave("id-of-inner", &format!("{:0<64}", "web1"));
    assert_eq!(found("web1."), some("10.1.0.3"));
    names.leave("id-of-inner", &format!("{:0<64}", "Asker"));
    assert_eq!(found("www."), None);
    assert_eq!(found("there."), some("10.1.0.3"));
}

#[test]
fn a_link_is_known_to_its_container_alone() {
    let names = Names::default();
    let mut asker = on("inner", "Asker", Ipv4Addr::new(10, 0, 0, 2), &[]);
    asker.endpoint.links = vec![("Store".to_owned(), "db".to_owned()), ("web".to_owned(), "db".to_owned())];
    let db = on("inner", "db", Ipv4Addr::new(10, 0, 0, 3), &[]);
    let web = on("inner", "web", Ipv4Addr::new(10, 0, 0, 4), &[]);
    names.replace(&[network("inner")], &[asker, db, web]);
    let found = |name: &str| ask(&names, &question(name, RecordType::A)).map(|answer| addresses(&answer));
    assert_eq!(found("store."), Some(vec!["10.0.0.3".to_owned()]));
    assert_eq!(found("STORE.inner."), Some(vec!["10.0.0.3".to_owned()]));
    assert_eq!(found("web."), Some(vec!["10.0.0.3".to_owned()]), "a link comes first");
    assert_eq!(names.addresses(&format!("{:0<64}", "db"), "store"), None);
    names.leave("id-of-inner", &format!("{:0<64}", "db"));
    assert_eq!(found("store."), None);
    assert_eq!(found("web."), Some(vec!["10.0.0.4".to_owned()]));
}

#[test]
fn a_name_of_several_has_all_their_addresses_and_another_one_first_each_time() {
    let names = names();
    let mut first = BTreeSet::new();
    for _ in 0..200 {
        let mut found = addresses(&ask(&names, &question("www.", RecordType::A)).unwrap());
        first.insert(found[0].clone());
        found.sort();
        assert_eq!(found, ["10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    }
    assert_eq!(first.len(), 3);
}

#[test]
fn what_a_known_name_does_not_have_is_an_empty_answer() {
    let names = names();
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::TXT, RecordType::HTTPS] {
        let answer = ask(&names, &question("web1.", kind)).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty() && answer.queries.len() == 1);
        assert!(ask(&names, &question("unknown.", kind)).is_none());
    }
}

#[test]
fn addresses_have_names() {
    let names = names();
    let found = |name: &str| ask(&names, &question(name, RecordType::PTR)).map(|answer| addresses(&answer));
    assert_eq!(found("3.0.0.10.in-addr.arpa."), Some(vec!["web1.inner.".to_owned()]));
    assert_eq!(found("3.0.1.10.in-addr.arpa."), Some(vec!["web1.other.net.".to_owned()]));
    for other in ["9.0.0.10.in-addr.arpa.", "0.0.10.in-addr.arpa.", "3.0.17.172.in-addr.arpa.", "x.ip6.arpa."]
    {
        assert_eq!(found(other), None, "{other}");
    }
}

#[test]
fn what_does_not_fit_is_left_out_and_told() {
    let names = Names::default();
    let address = |number: u32| Ipv4Addr::from_bits(0x0a00_0000 + number);
    let mut all: Vec<Attachment> =
        (101..=200).map(|number| on("inner", &format!("c{number}"), address(number), &["all"])).collect();
    all.push(on("inner", "Asker", address(250), &[]));
    names.replace(&[network("inner")], &all);
    let mut message = question("all.", RecordType::A);
    let sized =
        |message: &Message, transport| match asked(&names, &message.to_vec().unwrap(), transport, false) {
            Outcome::Answer(bytes) => (bytes.len(), Message::from_vec(&bytes).unwrap()),
            other => panic!("{other:?}"),
        };
    let (length, answer) = sized(&message, Transport::Udp);
    assert!((450..=512).contains(&length), "{length}");
    assert!(answer.metadata.truncation && answer.answers.len() > 25, "{}", answer.answers.len());
    let (_, answer) = sized(&message, Transport::Tcp);
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 100);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    let (length, answer) = sized(&message, Transport::Udp);
    assert!((1100..=1232).contains(&length), "{length}");
    assert!(answer.metadata.truncation && answer.edns.is_some());
}

#[test]
fn names_without_dots_stay_here_if_the_container_completes_them() {
    let names = names();
    let outcome = |name: &str, kind, has_dots| {
        let bytes = question(name, kind).to_vec().unwrap();
        match asked(&names, &bytes, Transport::Udp, has_dots) {
            Outcome::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap().answers.len()),
            Outcome::Forward(_) => None,
            Outcome::Nothing => panic!("no answer"),
        }
    };
    assert_eq!(outcome("unknown.", RecordType::A, true), Some(0));
    assert_eq!(outcome("unknown.", RecordType::A, false), None);
    assert_eq!(outcome("unknown.", RecordType::TXT, true), None);
    assert_eq!(outcome("unknown.example.", RecordType::A, true), None);
    assert_eq!(outcome("web1.", RecordType::A, true), Some(1));
}

/// A message whose only name is a reference to itself.
const LOOP: &[u8] = &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];

#[test]
fn what_is_no_question_is_refused_or_passed_over() {
    let names = names();
    let code = |bytes: &[u8]| match asked(&names, bytes, Transport::Udp, false) {
        Outcome::Answer(answer) => Some(answer[3] & 0x0f),
        Outcome::Nothing => None,
        Outcome::Forward(question) => panic!("{question:?}"),
    };
    let good = question("web1.", RecordType::A).to_vec().unwrap();
    for length in 0..12 {
        assert_eq!(code(&good[..length]), None, "{length}");
    }
    for length in 12..good.len() {
        assert_eq!(code(&good[..length]), Some(1), "{length}");
    }
    assert_eq!(code(LOOP), Some(1));
    let mut answer = good.clone();
    answer[2] |= 0x80;
    assert_eq!(code(&answer), None, "answers are not answered");
    let mut update = good.clone();
    update[2] |= 5 << 3;
    assert!(matches!(code(&update), Some(1 | 4)));
    let mut status = good.clone();
    status[2] |= 2 << 3;
    assert_eq!(code(&status), Some(4));
    let mut two = question("web1.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("web2.").unwrap(), RecordType::A));
    assert_eq!(code(&two.to_vec().unwrap()), Some(1));
    let mut none = question("web1.", RecordType::A);
    none.queries.clear();
    assert_eq!(code(&none.to_vec().unwrap()), Some(1));
}

#[test]
fn only_the_answer_to_a_question_is_taken() {
    let names = names();
    let message = question("example.com.", RecordType::A);
    let Outcome::Forward(asked) = asked(&names, &message.to_vec().unwrap(), Transport::Udp, false) else {
        panic!("not left for others")
    };
    let mut answer = Message::response(7, OpCode::Query);
    answer.add_query(Query::query(Name::from_ascii("EXAMPLE.com.").unwrap(), RecordType::A));
    let taken = |answer: &Message, number| asked.is_answered_by(&answer.to_vec().unwrap(), number);
    assert_eq!(taken(&answer, 7), Some(ResponseCode::NoError));
    assert_eq!(taken(&answer, 8), None);
    assert_eq!(taken(&message, 4711), None, "a question is no answer");
    answer.queries[0].set_query_type(RecordType::AAAA);
    assert_eq!(taken(&answer, 7), None);
    answer.queries.clear();
    assert_eq!(taken(&answer, 7), None);
    answer.metadata.response_code = ResponseCode::FormErr;
    assert_eq!(taken(&answer, 7), Some(ResponseCode::FormErr));
    let failure = Message::from_vec(&asked.failure(ResponseCode::ServFail).unwrap()).unwrap();
    assert_eq!((failure.metadata.id, failure.metadata.response_code), (4711, ResponseCode::ServFail));
    assert_eq!(failure.queries.len(), 1);
}

mod fuzz {
    use super::*;

    #[test]
    fn dns_messages() {
        let names = names();
        let plain = question("web1.", RecordType::A).to_vec().unwrap();
        let mut long = question("3.0.0.10.in-addr.arpa.", RecordType::PTR);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        long.set_edns(edns);
        let long = long.to_vec().unwrap();
        ::fuzz::run("dns_messages", &[&plain, &long, LOOP], |input| {
            for transport in [Transport::Udp, Transport::Tcp] {
                match asked(&names, input, transport, true) {
                    Outcome::Answer(answer) => assert!(answer.len() >= 12 && input.len() >= 12),
                    Outcome::Forward(question) => {
                        question.is_answered_by(input, question.number());
                        question.failure(ResponseCode::ServFail);
                    }
                    Outcome::Nothing => {}
                }
            }
        });
    }
}
