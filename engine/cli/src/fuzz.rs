//! A hostile daemon's streams.

use futures_util::FutureExt as _;

#[test]
fn stream_frames() {
    let corpus: [&[u8]; 3] = [
        b"\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x03err",
        b"\x03\0\0\0\0\0\0\x04oops",
        b"\x01\0\0\0\xff\xff\xff\xffmuch",
    ];
    fuzz::run("stream_frames", &corpus, |input| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut from = input;
        let copied = super::stdcopy::copy_frames(&mut from, &mut out, &mut err).now_or_never();
        assert!(copied.is_some(), "all of it is there");
        assert!(out.len() + err.len() <= input.len());
    });
}
