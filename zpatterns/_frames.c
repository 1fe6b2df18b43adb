/* Whole multipart messages in and out of a ZeroMQ socket, without a Python object per frame but its bytes.
 *
 * zpatterns/transfer.py explains why, finds libzmq, and has the same in Python where this was not compiled.
 * Nothing here waits: every call of libzmq is made with ZMQ_DONTWAIT, and the GIL is held throughout.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

/* zmq.h: 64 bytes, aligned as a pointer, since libzmq 4.1. */
typedef union {
    unsigned char bytes[64];
    void *aligned;
} message_t;

enum { DONTWAIT = 1, SNDMORE = 2, EVENTS = 15 };

static struct {
    int (*init)(message_t *);
    int (*init_size)(message_t *, size_t);
    int (*recv)(message_t *, void *, int);
    int (*send)(message_t *, void *, int);
    int (*more)(const message_t *);
    void *(*data)(message_t *);
    size_t (*size)(const message_t *);
    int (*close)(message_t *);
    int (*get)(void *, int, void *, size_t *);
    int (*error)(void);
} zmq;

static PyObject *load(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long at[10];
    if (!PyArg_ParseTuple(args, "KKKKKKKKKK:load", at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, at + 7, at + 8,
                          at + 9))
        return NULL;
    zmq.init = (int (*)(message_t *))(uintptr_t)at[0];
    zmq.init_size = (int (*)(message_t *, size_t))(uintptr_t)at[1];
    zmq.recv = (int (*)(message_t *, void *, int))(uintptr_t)at[2];
    zmq.send = (int (*)(message_t *, void *, int))(uintptr_t)at[3];
    zmq.more = (int (*)(const message_t *))(uintptr_t)at[4];
    zmq.data = (void *(*)(message_t *))(uintptr_t)at[5];
    zmq.size = (size_t (*)(const message_t *))(uintptr_t)at[6];
    zmq.close = (int (*)(message_t *))(uintptr_t)at[7];
    zmq.get = (int (*)(void *, int, void *, size_t *))(uintptr_t)at[8];
    zmq.error = (int (*)(void))(uintptr_t)at[9];
    Py_RETURN_NONE;
}

static void *socket_of(PyObject *handle)
{
    void *socket;
    if (!zmq.error) {
        PyErr_SetString(PyExc_RuntimeError, "load() comes first");
        return NULL;
    }
    socket = PyLong_AsVoidPtr(handle);
    if (!socket && !PyErr_Occurred()) {
        errno = ENOTSOCK;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return socket;
}

static PyObject *events(PyObject *Py_UNUSED(module), PyObject *handle)
{
    void *socket = socket_of(handle);
    int ready = 0;
    size_t size = sizeof ready;
    if (!socket)
        return NULL;
    while (zmq.get(socket, EVENTS, &ready, &size) < 0) {
        errno = zmq.error();
        if (errno != EINTR)
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(ready);
}

/* One message as a list of bytes; NULL without an exception when there is none, or with one. A message of which
 * a frame finds no memory is read to its end all the same, or its rest would be taken for the next. */
static PyObject *receive_one(void *socket)
{
    PyObject *frames = NULL;
    int more = 1, failed = 0;
    while (more) {
        message_t message;
        PyObject *frame;
        zmq.init(&message);
        while (zmq.recv(&message, socket, DONTWAIT) < 0) {
            int error = zmq.error();
            if (error == EINTR)
                continue;
            zmq.close(&message);
            Py_XDECREF(frames);
            if (error != EAGAIN && !failed) {
                errno = error;
                PyErr_SetFromErrno(PyExc_OSError);
            }
            return NULL;
        }
        more = zmq.more(&message);
        if (!failed) {
            frame = PyBytes_FromStringAndSize(zmq.data(&message), (Py_ssize_t)zmq.size(&message));
            if (!frames && frame)
                frames = PyList_New(0);
            failed = !frame || !frames || PyList_Append(frames, frame) < 0;
            Py_XDECREF(frame);
        }
        zmq.close(&message);
    }
    if (failed) {
        Py_XDECREF(frames);
        return NULL;
    }
    return frames;
}

static PyObject *receive(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    PyObject *batch;
    Py_ssize_t budget;
    void *socket;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "receive(handle, budget)");
        return NULL;
    }
    budget = PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred() || !(socket = socket_of(args[0])) || !(batch = PyList_New(0)))
        return NULL;
    while (budget-- > 0) {
        PyObject *frames = receive_one(socket);
        if (!frames || PyList_Append(batch, frames) < 0) {
            Py_XDECREF(frames);
            if (PyErr_Occurred()) {
                if (PyList_Size(batch) > 0 && PyErr_ExceptionMatches(PyExc_OSError)) {
                    /* What has come counts; the next call finds the same error. */
                    PyErr_Clear();
                    break;
                }
                Py_DECREF(batch);
                return NULL;
            }
            break;
        }
        Py_DECREF(frames);
    }
    return batch;
}

/* One frame: the errno of libzmq, or 0. */
static int send_frame(void *socket, const char *data, size_t size, int flags)
{
    message_t message;
    if (zmq.init_size(&message, size) < 0)
        return zmq.error();
    memcpy(zmq.data(&message), data, size);
    while (zmq.send(&message, socket, flags) < 0) {
        int error = zmq.error();
        if (error == EINTR)
            continue;
        zmq.close(&message);
        return error;
    }
    return 0;
}

/* One message: the errno of libzmq, 0, or -1 with an exception. */
static int send_one(void *socket, PyObject *frames, int *begun)
{
    Py_ssize_t i, count = PyList_Size(frames);
    *begun = 0;
    if (count <= 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a message without frames cannot be sent");
        return -1;
    }
    for (i = 0; i < count; i++)
        if (!PyBytes_Check(PyList_GetItem(frames, i))) {
            PyErr_SetString(PyExc_TypeError, "the frames of a message are bytes");
            return -1;
        }
    for (i = 0; i < count; i++) {
        char *data;
        Py_ssize_t size;
        int is_last = i + 1 == count, error;
        if (PyBytes_AsStringAndSize(PyList_GetItem(frames, i), &data, &size) < 0)
            return -1;
        error = send_frame(socket, data, (size_t)size, is_last ? DONTWAIT : DONTWAIT | SNDMORE);
        if (error) {
            if (*begun && !is_last)
                send_frame(socket, "", 0, DONTWAIT); /* as PlainTransfer.send */
            return error;
        }
        *begun = 1;
    }
    return 0;
}

static PyObject *send_many(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t at, stop;
    void *socket;
    if (count != 4 || !PyList_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "send(handle, messages, start, stop)");
        return NULL;
    }
    at = PyLong_AsSsize_t(args[2]);
    stop = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred() || !(socket = socket_of(args[0])))
        return NULL;
    for (; at < stop; at++) {
        PyObject *frames = PyList_GetItem(args[1], at);
        int begun, error;
        if (!frames)
            return NULL;
        if (!PyList_Check(frames)) {
            PyErr_SetString(PyExc_TypeError, "a message is a list of bytes");
            return NULL;
        }
        error = send_one(socket, frames, &begun);
        if (error < 0)
            return NULL;
        if (error)
            return Py_BuildValue("(niO)", at, error, begun ? Py_True : Py_False);
    }
    return Py_BuildValue("(niO)", at, 0, Py_False);
}

static PyMethodDef methods[] = {
    {"load", load, METH_VARARGS, "The addresses of the ten functions of libzmq."},
    {"events", events, METH_O, "See zpatterns.transfer."},
    {"receive", (PyCFunction)(void (*)(void))receive, METH_FASTCALL, "See zpatterns.transfer."},
    {"send", (PyCFunction)(void (*)(void))send_many, METH_FASTCALL, "See zpatterns.transfer."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_frames", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__frames(void)
{
    return PyModule_Create(&definition);
}
