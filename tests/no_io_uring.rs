//! Without io_uring the gateway says why and what to do, and exits with 2.

mod gateway;

use gateway::backend::Backend;
use gateway::{Start, frame_config, run_to_end};

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
/// Where a filter finds the first argument of a system call, and its number at 0 (seccomp(2)).
const ARGUMENT: u32 = 16;

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Fails io_uring_setup with EPERM, as container runtimes do.
fn forbid_io_uring() -> std::io::Result<()> {
    install(&mut [
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        instruction(RETURN, 0, 0, REFUSE),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

/// Fails it for rings of 256 entries: a shard's second one.
fn forbid_the_second_ring() -> std::io::Result<()> {
    install(&mut [
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_EQUAL, 0, 3, libc::SYS_io_uring_setup as u32),
        instruction(LOAD_WORD, 0, 0, ARGUMENT),
        instruction(JUMP_EQUAL, 0, 1, 256),
        instruction(RETURN, 0, 0, REFUSE),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

#[allow(unsafe_code, reason = "prctl has no safe wrapper in use here")]
fn install(filter: &mut [libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain system calls in the child before exec; `program` outlives them.
    let result = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            -1
        } else {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        }
    };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn a_seccomp_profile_that_refuses_rings_is_named_with_the_remedy() {
    let backend = Backend::echo("never reached");
    for refusal in [forbid_io_uring, forbid_the_second_ring] {
        let toml = frame_config(&[backend], "", "");
        let start = Start { before_exec: Some(refusal), ..Start::default() };
        let (code, said) = run_to_end(&toml, &start);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("io_uring is not available"), "{said}");
        assert!(said.contains("seccomp") && said.contains("io_uring_setup"), "{said}");
    }
}
