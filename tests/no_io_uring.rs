//! Without io_uring the gateway says why and what to do, and exits with 2.

mod gateway;

use gateway::backend::Backend;
use gateway::{Start, frame_config, run_to_end};

/// Installs a seccomp filter that fails io_uring_setup with EPERM, as container runtimes do.
#[allow(unsafe_code, reason = "prctl has no safe wrapper in use here")]
fn forbid_io_uring() -> std::io::Result<()> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap_or(u32::MAX);
    let mut filter = [
        instruction(LOAD_NUMBER, 0, 0, 0),
        instruction(JUMP_EQUAL, 0, 1, setup),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
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
    let toml = frame_config(&[backend], "", "");
    let start = Start { before_exec: Some(forbid_io_uring), ..Start::default() };
    let (code, said) = run_to_end(&toml, &start);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("io_uring is not available"), "{said}");
    assert!(said.contains("seccomp") && said.contains("io_uring_setup"), "{said}");
}
