# A server for one run: docker run --publish 8000:8000 --volume ./runs/flowers-1:/model:ro swinclf
FROM python:3.12-slim

# cpu, or a version of CUDA that PyTorch is built for, such as cu130.
ARG TORCH=cpu
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/${TORCH}

COPY pyproject.toml README.md LICENSE NOTICE /src/
COPY swinclf /src/swinclf
RUN pip install --no-cache-dir '/src[serve,onnx,heic]' && rm -r /src && useradd --create-home swinclf

USER swinclf
WORKDIR /home/swinclf
EXPOSE 8000
# Every address of a container requires a token: SWINCLF_TOKEN, or the one that is printed.
ENTRYPOINT ["swinclf"]
CMD ["serve", "--run", "/model", "--host", "0.0.0.0"]
