# Targets: the image for CPUs, which is the default, and `cuda` for GPUs.
ARG CUDA=13.0.3

# Any Rust from Cargo.toml's minimum on.
FROM rust:1.95-slim-bookworm AS rust

# CUDA and cuDNN 9 with their compilers, of C too.
FROM nvidia/cuda:${CUDA}-cudnn-devel-ubuntu24.04 AS build-cuda
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
# candle's kernels: intermediate code of Ampere, which drivers compile for every later card; ours are in build.rs
ENV CUDA_COMPUTE_CAP=80
WORKDIR /src
COPY . .
RUN cargo build --release --locked --features cuda,cudnn
# What the program loads, beside CUDA's runtime, which the base image has, and the driver's libraries, which come with the
# GPU. cuDNN opens its parts by name, and they the compiler and linker of kernels (nvrtc, nvJitLink).
RUN install -d /libraries && cd /usr/local/cuda/lib64 && cp -L \
        libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnvJitLink.so.13 libnvrtc.so.13 libnvrtc-builtins.so.13.0 \
        /libraries \
    && cp -L /usr/lib/*-linux-gnu/libcudnn*.so.9 /libraries \
    # attention and recurrent networks
    && rm -f /libraries/libcudnn_adv.so.9

FROM nvidia/cuda:${CUDA}-base-ubuntu24.04 AS cuda
RUN useradd --system --uid 10001 --no-create-home resnetd \
    && install -d -o 10001 /var/cache/resnetd
# where hf: models, the measured algorithms and what the driver compiles are kept
ENV HF_HOME=/var/cache/resnetd \
    RESNETD_CUDA_CACHE=/var/cache/resnetd/cuda \
    CUDA_CACHE_PATH=/var/cache/resnetd/driver
VOLUME /var/cache/resnetd
COPY --from=build-cuda /libraries/ /usr/local/lib/
COPY --from=build-cuda /src/target/release/resnetd /usr/local/bin/resnetd
RUN ldconfig
USER 10001
EXPOSE 8080 50051
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /livez HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["resnetd"]
CMD ["serve"]

# The C compiler is the image's.
FROM rust AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home resnetd \
    && install -d -o 10001 /var/cache/resnetd
# where hf: models are kept
ENV HF_HOME=/var/cache/resnetd
VOLUME /var/cache/resnetd
COPY --from=build /src/target/release/resnetd /usr/local/bin/resnetd
USER 10001
EXPOSE 8080 50051
# bash speaks HTTP well enough for a probe, so that the image needs no client
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /livez HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["resnetd"]
CMD ["serve"]
