# CPU:  docker build -t mic_det .
# GPU:  docker build -t mic_det:cuda --build-arg BASE=pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime .
#       The base's own PyTorch is kept.
# Use:  docker run --rm -v "$PWD:/work" mic_det adapt day fog_images --output out      (GPU: add --gpus all)
ARG BASE=python:3.11-slim
FROM ${BASE}

WORKDIR /opt/mic_det
COPY pyproject.toml setup.py README.md LICENSE mic_det_console.py ./
COPY mic_det mic_det
COPY configs configs
COPY .ci/install.sh .ci/install.sh
RUN .ci/install.sh

WORKDIR /work
ENTRYPOINT ["mic-det"]
CMD ["--help"]
