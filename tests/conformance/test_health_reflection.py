"""grpc.health.v1 with grpcio-health-checking and reflection with grpcio-reflection."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import InferResult, service_pb2

from support import PATIENCE, same_bits, tensors

INFERENCE = "inference.GRPCInferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture
def health(channel):
    return health_pb2_grpc.HealthStub(channel)


@pytest.fixture
def database(channel):
    return ProtoReflectionDescriptorDatabase(channel)


@pytest.mark.parametrize("service", ["", INFERENCE, "resnetd.v1.Classifier"])
def test_the_server_and_its_services_are_serving(health, service):
    assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_the_health_of_an_unknown_service_is_not_found(health):
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody.Service"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", ["", INFERENCE])
def test_a_watch_delivers_the_health_at_once(health, service):
    watch = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
    assert next(watch).status == SERVING
    watch.cancel()


def test_reflection_lists_the_services(database):
    assert {INFERENCE, "resnetd.v1.Classifier", "grpc.health.v1.Health"} <= set(database.get_services())


def test_reflection_resolves_a_message(database):
    message = DescriptorPool(database).FindMessageTypeByName("inference.ModelInferRequest")
    expected = {"model_name", "model_version", "id", "parameters", "inputs", "outputs", "raw_input_contents"}
    assert expected <= set(message.fields_by_name)


def test_what_reflection_does_not_know_is_an_error(database):
    # tonic ends the call with NOT_FOUND, where other servers send an error message that becomes a KeyError
    with pytest.raises((KeyError, grpc.RpcError), match="nobody.Message"):
        DescriptorPool(database).FindMessageTypeByName("nobody.Message")


def test_a_call_may_be_made_with_what_reflection_tells(channel, database, grpc_api):
    service = DescriptorPool(database).FindServiceByName(INFERENCE)
    method = service.methods_by_name["ModelInfer"]
    request = GetMessageClass(method.input_type)(model_name="flat")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 3, 32, 32])
    request.raw_input_contents.append(tensors(1).tobytes())
    call = channel.unary_unary(
        f"/{INFERENCE}/ModelInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    result = InferResult(call(request, timeout=PATIENCE))
    assert same_bits(result.as_numpy("logits"), grpc_api.infer(tensors(1)).as_numpy("logits"))


def fields_of(message):
    """Every field within a message: (message, name, number, type)."""
    fields, waiting, seen = set(), [message], set()
    while waiting:
        message = waiting.pop()
        seen.add(message.full_name)
        for field in message.fields:
            fields.add((message.full_name, field.name, field.number, field.type))
            if field.message_type and field.message_type.full_name not in seen:
                waiting.append(field.message_type)
    return fields


def test_the_interface_is_the_one_that_tritonclient_has(database):
    ours = DescriptorPool(database).FindServiceByName(INFERENCE)
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in ours.methods:
        known = theirs.methods_by_name[method.name]
        assert fields_of(method.input_type) <= fields_of(known.input_type)
        assert fields_of(method.output_type) <= fields_of(known.output_type)
